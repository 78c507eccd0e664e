"""Training of descriptor networks: pictures, augmentation, loss, optimisers and the loop."""
