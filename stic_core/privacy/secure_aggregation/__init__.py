"""Sums of which nobody sees a part: masks, shares of their keys, fixed point (Bonawitz et al. 2017, CCS).

Pure functions over bytes and arrays. What a site answers when lies in `stic_client.participation.masked_rounds`,
what the server makes of the answers in `stic_server.federation.masking`.
"""
