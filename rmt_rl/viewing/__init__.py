"""What people look at: films of episodes, and a page about one episode and the memory in it (`python -m rmt_rl.play`)."""
