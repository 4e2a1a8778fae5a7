"""Files of simulated patients, one module for each kind of granularity.

Every module renders standardised summaries of the latent state, in a form that its encoder must
undo, with the nuisance of its kind and the effects of the hospital.
"""
