"""Change a running model, or write another: interventions, recipes, baking, tuning."""
