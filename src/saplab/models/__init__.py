"""Networks: the packaged ones, their architectures, those of torchvision and timm, and the user's own."""
