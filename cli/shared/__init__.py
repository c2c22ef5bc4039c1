"""What all commands share: arguments, output, progress, words. Knows no command."""
