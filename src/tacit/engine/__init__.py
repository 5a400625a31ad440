"""What carries an experiment out: in this process and its workers."""
