"""An experiment among real machines: who they are, what they send, and who does what in a round."""
