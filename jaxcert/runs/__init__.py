"""What makes a long job resumable: files, whole or absent, and their readers."""
