"""Requests: checked, admitted, and streamed to their clients."""
