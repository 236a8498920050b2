"""Montreal Set of Facial Displays of Emotion (MSFDE): scan, TFDS builder."""
