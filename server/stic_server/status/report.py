"""`stic-server status`: what is on the disk, put together; nothing is contacted."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stic_core.config import FederationConfig
from stic_server.admission import registry
from stic_server.admission.expiry import Expiry, expiries
from stic_server.federation.joining import TAKES_PART
from stic_server.federation.run_folder import RunFolder
from stic_server.status.file import Activity, State, read_activity, state_of

SCHEMA = 1

_CHECKPOINT = re.compile(r"^round-(\d+)-")


def status(folder: Path, federation: FederationConfig, *, now: dt.datetime) -> dict[str, Any]:
    """All of it, as `status --json` shows it.

    Args:
        folder: of federation.yaml.
        now: aware.

    Raises:
        UsageError: a certificate is missing.
    """
    activity = read_activity(folder)
    state = state_of(activity, now=now.timestamp()) if activity is not None else None
    certificates = expiries(folder)
    found = registry.scan(folder / "sites")
    warnings = [
        *(text for one in certificates if (text := one.warning(now))),
        *(f"sites/{name}.pub: {error.what}" for name, error in found.unreadable.items()),
    ]
    if waits := [one for one in certificates if one.name == "ca-next"]:
        warnings.append(
            f"a next CA is waiting ({waits[0].fingerprint}): "
            "once every site trusts it, run stic-server renew --ca --switch"
        )
    return {
        "schema": SCHEMA,
        "federation": federation.name,
        "host": federation.listen.host,
        "port": federation.listen.port,
        "server": _server(activity, state),
        "sites": [_site(site, activity, state) for site in found.sites],
        "revoked": [
            {"site": site.name, "fingerprint": site.fingerprint}
            for site in registry.revoked(folder / "sites")
        ],
        "certificates": [_certificate(one, now) for one in certificates],
        "run": _last_run(federation, state),
        "warnings": warnings,
    }


def expired(document: Mapping[str, Any]) -> bool:
    """Whether a certificate in use is over: no site can connect."""
    return any(one["state"] == "expired" for one in document["certificates"] if one["name"] != "ca-next")


def describe(document: Mapping[str, Any], *, now: dt.datetime) -> str:
    """The same for people."""
    lines = [
        f"federation   {document['federation']}, port {document['port']} on {document['host']}",
        *_lines("server", _server_lines(document["server"], now)),
        *_lines("sites", _site_lines(document["sites"], now)),
    ]
    if document["revoked"]:
        keys = ", ".join(sorted({one["site"] for one in document["revoked"]}))
        lines += _lines("revoked", [f"{len(document['revoked'])} of {keys}"])
    lines += _lines("certificates", [_certificate_line(one) for one in document["certificates"]])
    lines += _lines("last run", [_run_line(document["run"])])
    lines += [f"warning: {text}" for text in document["warnings"]]
    return "\n".join(lines)


# ---- what is found ----------------------------------------------------------------------


def _server(activity: Activity | None, state: State | None) -> dict[str, Any]:
    if activity is None:
        return {"state": "never"}
    return {
        "state": state,
        "pid": activity.pid,
        "host": activity.host,
        "began": _iso(activity.began),
        "written": _iso(activity.written),
        "ended": None if activity.ended is None else _iso(activity.ended),
        "stage": activity.stage,
        "round": activity.round,
        "rounds": activity.rounds,
        "waiting": list(activity.waiting) if state == "running" else [],
        "waiting_seconds": activity.waiting_s if state == "running" else 0.0,
    }


def _site(site: registry.AdmittedSite, activity: Activity | None, state: State | None) -> dict[str, Any]:
    """A site; whether it is online is known only from a server that runs."""
    presence = activity.sites.get(site.name) if activity is not None else None
    last = presence.last_seen if presence is not None else None
    return {
        "site": site.name,
        "fingerprint": site.fingerprint,
        "online": presence.online if presence is not None and state == "running" else None,
        "last_seen": None if last is None else _iso(last),
        "part": _part(site.name, activity) if activity is not None and state == "running" else None,
    }


def _part(site: str, activity: Activity) -> str | None:
    """What a site has to do with the run; None where there is none yet."""
    presence = activity.sites.get(site)
    online = presence is not None and presence.online
    told = activity.parts.get(site)
    if told == TAKES_PART and not online:
        return "took part so far; the run continues without it until it is back"
    if told is None and online and activity.parts:
        return "will be asked to take part before the next round"
    return told


def _certificate(one: Expiry, now: dt.datetime) -> dict[str, Any]:
    left = one.left(now)
    warned = "expired" if left <= dt.timedelta() else "expires soon"
    return {
        "name": one.name,
        "file": one.file.name,
        "fingerprint": one.fingerprint,
        "until": one.until.isoformat(timespec="seconds"),
        "days_left": left.days,
        "state": warned if one.warning(now) else "ok",
    }


def _last_run(federation: FederationConfig, state: State | None) -> dict[str, Any] | None:
    runs = sorted(federation.runs.glob(f"{federation.name}-*/record.json"))
    if not runs:
        return None
    run = RunFolder(runs[-1].parent)
    record = run.read_record()
    done = [int(found[1]) for path in run.checkpoints.glob("*") if (found := _CHECKPOINT.match(path.name))]
    interrupted = record["status"] == "running" and state != "running"
    return {
        "run_id": run.run_id,
        "status": "interrupted" if interrupted else record["status"],
        "started": record["started"],
        "finished": record.get("finished"),
        "rounds_done": max(done, default=record.get("rounds", 0)),
        "rounds": record.get("config", {}).get("rounds"),
        "sites": sorted(record["sites"]),
    }


# ---- how it is shown --------------------------------------------------------------------


def _lines(heading: str, texts: Sequence[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        yield f"{heading if number == 0 else '':13}{text}"


def _server_lines(server: Mapping[str, Any], now: dt.datetime) -> list[str]:
    state = server["state"]
    if state == "never":
        return ["no server is running here, and none has run yet"]
    doing = server["stage"]
    if server["round"] is not None:
        doing = f"{doing}, round {server['round']} of {server['rounds']}"
    if state == "ended":
        return [f"no server is running; the previous server stopped at {_when(server['ended'])} ({doing})"]
    if state == "killed":
        return [
            f"no server is running; the previous server was killed while {doing} (last seen {_when(server['written'])})"
        ]
    lines = [
        f"running since {_when(server['began'])}, process {server['pid']} on {server['host']}",
        doing,
    ]
    if state == "silent":
        ago = _ago(server["written"], now)
        lines[0] = (
            f"process {server['pid']} on {server['host']} has been silent for {ago}; it is hanging or gone"
        )
    if server["waiting"]:
        lines.append(f"waiting for {', '.join(server['waiting'])}, {server['waiting_seconds']:.0f} s so far")
    return lines


def _site_lines(found: Sequence[Mapping[str, Any]], now: dt.datetime) -> list[str]:
    if not found:
        return ["none is admitted; see stic-server admit --help"]
    lines = []
    for site in found:
        there = {True: "online", False: "offline", None: "not known"}[site["online"]]
        if site["last_seen"] is not None:
            there += f", last seen {_ago(site['last_seen'], now)} ago"
        lines.append(f"{site['site']:<12} {there:<36} {site['fingerprint']}")
        if site["part"] is not None:
            lines.append(f"{'':<12} {site['part']}")
    return lines


def _certificate_line(one: Mapping[str, Any]) -> str:
    left = {"expired": "expired"}.get(one["state"], f"{one['days_left']} days left")
    return f"{one['file']:<12} until {one['until'][:10]}, {left}"


def _run_line(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "none so far"
    done = f"{run['rounds_done']} of {run['rounds']} rounds" if run["rounds"] else "evaluation of a model"
    text = f"{run['run_id']}  {run['status']}, {done}, began {_when(run['started'])}"
    return text + ("; stic-server start resumes it" if run["status"] == "interrupted" else "")


def _iso(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")


def _when(text: str) -> str:
    return f"{dt.datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"


def _ago(text: str, now: dt.datetime) -> str:
    seconds = max(0, round((now - dt.datetime.fromisoformat(text)).total_seconds()))
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def as_json(document: Mapping[str, Any]) -> str:
    """For programs."""
    return json.dumps(document, indent=1)
