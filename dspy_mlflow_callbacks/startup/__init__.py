"""What Python reads when it starts, so that a program is traced that does not mention this package."""
