"""Every request's way in: what is open, who asks, how much, and off the event loop."""
