"""What people decide: asked for, drafted, applied, reverted. ``applying`` is the way in."""
