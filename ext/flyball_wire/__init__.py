"""What both sides say to each other: units, topics, messages, codec, lease, errors."""
