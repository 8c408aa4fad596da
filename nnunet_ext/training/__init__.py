"""What the trainers share: settings, the base trainer, data streams, schedules, checkpoints."""
