"""The power budget: network, rows, allocation, ledger and the loop that ties them."""
