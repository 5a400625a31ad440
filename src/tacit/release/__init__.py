"""A finished run, handed out: signed, with its bill of materials and its model card."""
