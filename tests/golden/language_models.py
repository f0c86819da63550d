def check_language_model(f): raise SystemExit("x")
def check_language_model_gradients(f): raise SystemExit("x")
