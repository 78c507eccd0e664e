"""What people decide: asked for, drafted, applied, approved, reverted. ``applying`` is the way in."""
