"""Two-stream conv-RNNs on frames and optical flow (paper 001)."""

from jaxfer.systems.two_stream_conv_rnn.recipe import TwoStreamSystem

SYSTEM = TwoStreamSystem()
