"""Losses as pure functions with thin modules over them."""
