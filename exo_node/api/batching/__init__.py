"""Batches: a file of requests, answered one after another beside what clients wait for. What was answered is in the
output file from that moment on, which is also how a restarted node knows what is left."""
