"""The one slot of the machine (see instance.py): who holds it, and giving it back for runs that are over.

Dagster waits for a slot in a loop without a pause and says nothing: whoever runs in this process asks here first.
"""

from dagster import DagsterInstance

from resources.instance import POOL


def holders(instance: DagsterInstance) -> set[str]:
    """Ids of the runs that hold the slot or have asked for it."""
    storage = instance.event_log_storage
    if POOL not in storage.get_concurrency_keys():
        return set()
    info = storage.get_concurrency_info(POOL)
    return set(info.active_run_ids) | set(info.pending_run_ids)


def free_finished(instance: DagsterInstance) -> list[str]:
    """Take the slot from runs that are over (killed, or on a full disk): nobody else would. Returns their ids."""
    gone = []
    for run_id in sorted(holders(instance)):
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            instance.event_log_storage.free_concurrency_slots_for_run(run_id)
            gone.append(run_id)
    return gone
