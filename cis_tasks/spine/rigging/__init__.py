"""Making a rig: the camera from a video of a board, tags to print, and a check of the file."""
