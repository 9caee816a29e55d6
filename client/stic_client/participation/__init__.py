"""What a site answers: its policy, its operator's approvals, and the participant that acts on both."""
