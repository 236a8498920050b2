"""Tables, figures and pages with the results of runs and studies."""
