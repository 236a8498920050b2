"""What a trained net looks at, as maps over the pixels of its inputs."""
