"""What is done to an update before it leaves a node, and what that guarantees."""
