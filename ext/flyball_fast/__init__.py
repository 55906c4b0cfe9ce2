"""Compiled hot paths, each beside a pure Python twin that states what it computes."""
