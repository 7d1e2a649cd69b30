"""The commands of the daemon, carried out on the parts of a keeper.

Most are answered at once.  An exec is answered when it has been started, which may take long; what
concerns a process that is being started waits for that.  Meanwhile everything else is served.
"""

from __future__ import annotations

import os
import time
from typing import Any

from sampan.linux import namespaces, pty
from sampan.runtime import protocol
from sampan.runtime.connection import Answer, Connections
from sampan.runtime.errors import StartError
from sampan.runtime.execs import Execs
from sampan.runtime.first import FirstProcess
from sampan.runtime.interfaces import Interface
from sampan.runtime.record import Record
from sampan.runtime.services import Services
from sampan.runtime.task import Task
from sampan.runtime.types import Paused, ServiceRequest, Unpaused

_INVALID = 22
_GONE = 3
_FAILED = 5
_AT_ONCE = protocol.GetState | protocol.SetRestart
"""Commands that do not wait for a restart's start to be over."""


class Commands:
    """Serves the control connections of one keeper."""

    def __init__(
        self,
        record: Record,
        connections: Connections,
        services: Services,
        first: FirstProcess,
        execs: Execs,
    ) -> None:
        self._record = record
        self._connections = connections
        self._services = services
        self._first = first
        self._execs = execs

    def serve(self, command: protocol.Command, fds: list[int], answer: Answer) -> None:
        """Carry out one command; every failure is an answer.  Takes over ``fds``."""
        seq, body = command.seq, command.body

        def again() -> None:
            self.serve(command, fds, answer)

        def started(outcome: int | StartError) -> None:
            if isinstance(outcome, StartError):
                answer(protocol.Reply(seq, str(outcome), outcome.exit_code))
            else:
                answer(protocol.Reply(seq, value=outcome))

        if not isinstance(body, _AT_ONCE) and self._first.postponed(again):
            return
        match body:
            case protocol.Exec(request=request):
                try:
                    self._execs.start(request, fds, started)
                except StartError as failure:
                    started(failure)
                return
            case protocol.Attach(exec_id=exec_id) | protocol.Resize(exec_id=exec_id):
                if self._execs.postponed(exec_id, again):
                    return
        answer(self._reply(seq, body, fds))

    def _reply(self, seq: int, body: protocol.Body, fds: list[int]) -> protocol.Reply:
        try:
            value = self._do(body, fds)
        except StartError as failure:
            return protocol.Reply(seq, str(failure), failure.exit_code)
        except ValueError as failure:
            return protocol.Reply(seq, str(failure), _INVALID)
        except ProcessLookupError:
            return protocol.Reply(seq, f"container {self._record.id} is not running", _GONE)
        except OSError as failure:
            text = failure.strerror or str(failure)
            return protocol.Reply(seq, text, failure.errno or _FAILED)
        finally:
            for fd in fds:
                os.close(fd)
        return protocol.Reply(seq, value=value)

    def _do(self, body: protocol.Body, fds: list[int]) -> Any:
        """``fds`` that are taken over are removed from the list."""
        match body:
            case protocol.GetState():
                self._record.state.execs = self._execs.pids()
                return self._record.state
            case protocol.Signal(number=number, everyone=everyone):
                self._first.signal(number, everyone)
            case protocol.Attach(request=request, exec_id=exec_id):
                if len(fds) != 1:
                    raise ValueError("attach needs one connection")
                self._find(exec_id).stdio.attach(request, fds.pop())
            case protocol.Resize(rows=rows, columns=columns, exec_id=exec_id):
                terminal = self._find(exec_id).stdio.terminal
                if terminal is None:
                    raise ValueError("the process has no terminal to resize")
                pty.set_window(terminal, rows, columns)
            case protocol.Pause():
                self._pause()
            case protocol.Resume():
                self._resume()
            case protocol.Update(resources=resources):
                self._record.running_group.update(resources)
            case protocol.SetRestart(name=name, maximum_retry_count=count):
                self._first.set_restart(name, count)
            case protocol.SetNetwork(interfaces=links, services=services):
                self._set_network(links, services)
        return None

    def _find(self, exec_id: str) -> Task:
        task = self._execs.find(exec_id) if exec_id else self._first.task
        if task is None:
            raise ProcessLookupError
        return task

    def _pause(self) -> None:
        record, group = self._record, self._record.running_group
        if record.state.status == "paused":
            raise ValueError(f"container {record.id} is already paused")
        group.freeze()
        record.state.status = "paused"
        record.write()
        self._connections.emit(Paused(time.time_ns()))

    def _resume(self) -> None:
        record, group = self._record, self._record.running_group
        if record.state.status != "paused":
            raise ValueError(f"container {record.id} is not paused")
        group.thaw()
        record.state.status = "running"
        record.write()
        self._connections.emit(Unpaused(time.time_ns()))

    def _set_network(self, links: list[Interface], services: list[ServiceRequest]) -> None:
        request = self._record.request
        request.interfaces = links
        known = {service.name for service in request.services}
        fresh = [service for service in services if service.name not in known]
        if fresh:
            network = namespaces.open_namespace(self._record.state.pid, "network")
            try:
                for service in fresh:
                    self._services.start([service], network)
                    request.services.append(service)
            finally:
                os.close(network)
        self._record.keep_request()
