"""The noise process, prediction types, schedules, samplers and guidance: no networks, no files."""
