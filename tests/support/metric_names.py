"""Every metric of both sides, with its labels: what a dashboard and an alert may ask, and what leaves a machine."""

from __future__ import annotations

SERVER = {
    "stic_server_build_info": ("version", "protocol", "python"),
    "stic_server_serving": (),
    "stic_server_start_timestamp_seconds": (),
    "stic_server_alive_timestamp_seconds": (),
    "stic_rounds_done": (),
    "stic_rounds_planned": (),
    "stic_round_end_timestamp_seconds": (),
    "stic_round_seconds_total": ("part",),
    "stic_round_bytes_total": ("site", "direction"),
    "stic_sites_required": (),
    "stic_sites_expected": (),
    "stic_sites_online": (),
    "stic_site_online": ("site",),
    "stic_site_alive_timestamp_seconds": ("site",),
    "stic_site_state": ("site", "state"),
    "stic_answers_left_out_total": ("site", "kind"),
    "stic_requests_refused_total": ("status",),
    "stic_connections_refused_total": ("reason",),
    "stic_certificate_end_timestamp_seconds": ("certificate",),
}
CLIENT = {
    "stic_client_build_info": ("version", "protocol", "python"),
    "stic_client_start_timestamp_seconds": (),
    "stic_client_alive_timestamp_seconds": (),
    "stic_client_server_timestamp_seconds": (),
    "stic_client_bytes_total": ("direction",),
    "stic_client_answers_total": ("question", "decision"),
}
