"""Train the estimator of body parameters on synthetic people: python -m gcl_fast.estimator_training"""
