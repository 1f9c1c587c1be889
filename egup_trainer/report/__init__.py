"""The HTML report: tables and plots of evaluations and audits."""
