"""The program against its peers, side by side in one run. Rules of this room: ratios, never bare figures."""
