"""Source to pseudo-target datasets: methods, fit, apply and volume handling."""
