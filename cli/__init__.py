"""The command line: click commands, one file a command, loaded when they are asked for."""
