"""Registration: the body model fitted to images of a person, so that what was captured can move."""
