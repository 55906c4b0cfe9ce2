"""The site's side: intake, fleet, power, flex, health, placement, exchange, store, API and console."""
