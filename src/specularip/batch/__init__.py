"""Many avatars: jobs, the processes that run them, and what came of them."""
