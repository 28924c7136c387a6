"""A page about one episode: what the policy saw, did, attended to and remembered (`python -m rmt_rl.play out=episode.html`)."""
