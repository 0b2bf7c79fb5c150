"""The home screen: the list of studies and the buttons that start, open and manage them."""
