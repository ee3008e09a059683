"""What a search of the parameters that learn finds beside fixed choices and other searches, with equal budgets of training steps."""
