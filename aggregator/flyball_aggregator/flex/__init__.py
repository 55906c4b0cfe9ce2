"""Grid flexibility: schedules, offers and settlement, free of any protocol."""
