"""Tables of flows: Zeek's, nfdump's and CICFlowMeter's."""
