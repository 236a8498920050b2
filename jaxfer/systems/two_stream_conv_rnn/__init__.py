"""Paper 001: two streams of conv-RNNs on frames and optical flow."""

from jaxfer.systems.two_stream_conv_rnn.recipe import TwoStreamSystem

SYSTEM = TwoStreamSystem()
