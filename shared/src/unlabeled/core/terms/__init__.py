"""Terms: losses beside the method's own (a recipe's section `terms`)."""
