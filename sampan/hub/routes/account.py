"""Logging in, one's own tokens, the settings of repositories, and administration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from sampan.errors import Conflict, InvalidParameter, NotFound
from sampan.hub.access import DELETE
from sampan.hub.activity import Event
from sampan.hub.core import Hub
from sampan.hub.failures import RegistryError
from sampan.hub.records import Repository
from sampan.hub.routes.pages import Site
from sampan.hub.web.messages import translator
from sampan.hub.web.visitors import (
    COOKIE,
    Visitor,
    begin_session,
    check_origin,
    checked_form,
    login_first,
    own_path,
)

AUDIT_ROWS = 100
_MISTAKES = (InvalidParameter, Conflict, NotFound)

Change = Callable[[dict[str, str]], Awaitable[str]]


def routes(hub: Hub) -> list[web.RouteDef]:
    pages = AccountPages(hub, Site(hub))
    view = pages.site.view
    return [
        web.get("/login", view(pages.login_form)),
        web.post("/login", view(pages.login)),
        web.post("/logout", view(pages.logout)),
        web.get("/account", view(pages.account)),
        web.post("/account/token", view(pages.make_token)),
        web.post("/account/revoke", view(pages.revoke_token)),
        web.post("/account/password", view(pages.change_password)),
        web.get("/admin", view(pages.admin)),
        web.post("/admin/{what:.+}", view(pages.administer)),
        web.get("/r/{name:.+}/-/settings", view(pages.settings)),
        web.post("/r/{name:.+}/-/settings", view(pages.save_settings)),
        web.post("/r/{name:.+}/-/untag", view(pages.untag)),
        web.post("/r/{name:.+}/-/delete", view(pages.delete_repository)),
    ]


class AccountPages:
    def __init__(self, hub: Hub, site: Site) -> None:
        self.site = site
        self._hub = hub
        self._accounts = hub.accounts
        self._administration: dict[str, Change] = {
            "user": self._add_user,
            "user/delete": self._delete_user,
            "member": self._add_member,
            "member/delete": self._remove_member,
            "grant": self._grant,
        }

    async def login_form(self, request: web.Request, who: Visitor) -> web.Response:
        return self._login(request, who, request.query.get("to", ""))

    def _login(
        self, request: web.Request, who: Visitor, to: str, problem: str = "", status: int = 200
    ) -> web.Response:
        return self.site.page(request, who, "login.html", status=status, problem=problem, to=to)

    async def login(self, request: web.Request, who: Visitor) -> web.Response:
        check_origin(self._hub, request)
        form = await request.post()
        name, secret, to = (str(form.get(key, "")) for key in ("name", "password", "to"))
        try:
            found = await self._hub.access.check_password(
                self._hub.access.address(request), name, secret
            )
        except RegistryError as exc:
            return self._login(request, who, to, exc.message, 429)
        # A token is for programs, and an account in an htpasswd file has nothing to manage here.
        if found is None or found.limit or not await self._accounts.identity(found.name):
            problem = translator(who.language)("Wrong user name or password.")
            return self._login(request, who, to, problem, 401)
        response = _redirect(own_path(to))
        await begin_session(self._hub, request, response, found.name)
        await self._audit(request, found.name, "login", found.name)
        return response

    async def logout(self, request: web.Request, who: Visitor) -> web.Response:
        await checked_form(self._hub, request, who)
        response = _redirect("/")
        response.del_cookie(COOKIE)
        return response

    async def account(self, request: web.Request, who: Visitor) -> web.Response:
        _need_account(request, who)
        return await self._account(request, who)

    async def _account(
        self,
        request: web.Request,
        who: Visitor,
        *,
        note: str = "",
        problem: str = "",
        secret: str = "",
    ) -> web.Response:
        return self.site.page(
            request,
            who,
            "account.html",
            status=400 if problem else 200,
            tokens=await self._accounts.tokens(who.identity.name),
            note=note,
            problem=problem,
            secret=secret,
        )

    async def make_token(self, request: web.Request, who: Visitor) -> web.Response:
        form = await checked_form(self._hub, request, who)
        days = form.get("days", "")
        try:
            secret = await self._accounts.create_token(
                who.identity.name,
                form.get("label", ""),
                form.get("repositories", "*"),
                form.get("actions", ""),
                int(days) if days.isdecimal() else 0,
            )
        except InvalidParameter as exc:
            return await self._account(request, who, problem=str(exc))
        await self._audit(request, who.identity.name, "make token", form.get("label", ""))
        return await self._account(request, who, secret=secret)

    async def revoke_token(self, request: web.Request, who: Visitor) -> web.Response:
        form = await checked_form(self._hub, request, who)
        await self._accounts.revoke_token(who.identity.name, form.get("id", ""))
        await self._audit(request, who.identity.name, "revoke token", form.get("id", ""))
        return _redirect("/account")

    async def change_password(self, request: web.Request, who: Visitor) -> web.Response:
        form = await checked_form(self._hub, request, who)
        _ = translator(who.language)
        name, old = who.identity.name, form.get("old", "")
        try:
            if not await self._hub.access.check_password(
                self._hub.access.address(request), name, old
            ):
                raise InvalidParameter(_("Wrong user name or password."))
            await self._accounts.set_password(name, form.get("new", ""))
        except InvalidParameter as exc:
            return await self._account(request, who, problem=str(exc))
        except RegistryError as exc:
            return await self._account(request, who, problem=exc.message)
        await self._audit(request, name, "change password", name)
        response = await self._account(request, who, note=_("Saved."))
        await begin_session(self._hub, request, response, name)
        return response

    async def admin(self, request: web.Request, who: Visitor) -> web.Response:
        _need_admin(request, who)
        return await self._admin(request, who, "")

    async def _admin(self, request: web.Request, who: Visitor, problem: str) -> web.Response:
        return self.site.page(
            request,
            who,
            "admin.html",
            status=400 if problem else 200,
            users=await self._accounts.all(),
            teams=await self._accounts.teams(),
            grants=await self._accounts.grants(),
            audit=await self._hub.activity.audit_log(AUDIT_ROWS),
            problem=problem,
        )

    async def administer(self, request: web.Request, who: Visitor) -> web.Response:
        _need_admin(request, who)
        form = await checked_form(self._hub, request, who)
        change = self._administration.get(request.match_info["what"])
        if change is None:
            raise web.HTTPNotFound
        if change == self._delete_user and "sure" not in form:
            question = translator(who.language)("Delete the user {name}?", name=form.get("name"))
            return self._ask(request, who, form, question, "/admin")
        try:
            subject = await change(form)
        except _MISTAKES as exc:
            return await self._admin(request, who, str(exc))
        await self._audit(request, who.identity.name, request.match_info["what"], subject)
        return _redirect("/admin")

    async def _add_user(self, form: dict[str, str]) -> str:
        name = form.get("name", "")
        await self._accounts.create(name, form.get("password", ""), admin=form.get("admin") == "1")
        return name

    async def _delete_user(self, form: dict[str, str]) -> str:
        await self._accounts.delete(form.get("name", ""))
        return form.get("name", "")

    async def _add_member(self, form: dict[str, str]) -> str:
        team = form.get("team", "").removeprefix("@")
        await self._accounts.add_member(team, form.get("name", ""))
        return f"@{team} {form.get('name', '')}"

    async def _remove_member(self, form: dict[str, str]) -> str:
        await self._accounts.remove_member(form.get("team", ""), form.get("name", ""))
        return f"@{form.get('team', '')} {form.get('name', '')}"

    async def _grant(self, form: dict[str, str]) -> str:
        holder, pattern, level = (form.get(key, "") for key in ("holder", "pattern", "level"))
        await self._accounts.grant(holder, pattern, level)
        return f"{holder} {pattern} {level}"

    async def settings(self, request: web.Request, who: Visitor) -> web.Response:
        found = await self._editable(request, who)
        return self.site.page(request, who, "settings.html", repository=found, note="")

    async def save_settings(self, request: web.Request, who: Visitor) -> web.Response:
        found = await self._editable(request, who)
        form = await checked_form(self._hub, request, who)
        await self._hub.records.describe(
            found.name,
            description=form.get("description", "")[:500],
            readme=form.get("readme", "")[:100_000],
            private=form.get("private") == "1",
        )
        await self._audit(request, who.identity.name, "change settings", found.name)
        return self.site.page(
            request,
            who,
            "settings.html",
            repository=await self._hub.records.repository(found.name),
            note=translator(who.language)("Saved."),
        )

    async def untag(self, request: web.Request, who: Visitor) -> web.Response:
        found = await self._editable(request, who)
        form = await checked_form(self._hub, request, who)
        tag = form.get("tag", "")
        if "sure" not in form:
            question = translator(who.language)(
                "Delete the tag {tag} of {repository}?", tag=tag, repository=found.name
            )
            return self._ask(request, who, form, question, f"/r/{found.name}")
        manifest = await self._hub.records.manifest(found.name, tag) if ":" not in tag else None
        if manifest and await self._hub.records.delete_tag(found.name, tag):
            self._hub.activity.changed(
                Event(
                    "delete",
                    found.name,
                    tag,
                    manifest.digest,
                    manifest.media_type,
                    who.identity.name,
                )
            )
            await self._audit(request, who.identity.name, "delete", f"{found.name} {tag}")
        return _redirect(f"/r/{found.name}")

    async def delete_repository(self, request: web.Request, who: Visitor) -> web.Response:
        found = await self._editable(request, who)
        form = await checked_form(self._hub, request, who)
        if form.get("name") != found.name:
            return self.site.page(
                request,
                who,
                "settings.html",
                status=400,
                repository=found,
                note="",
                problem=translator(who.language)("This is not the name of the repository."),
            )
        await self._hub.records.delete_repository(found.name)
        await self._audit(request, who.identity.name, "delete repository", found.name)
        return _redirect("/")

    def _ask(
        self, request: web.Request, who: Visitor, form: dict[str, str], question: str, back: str
    ) -> web.Response:
        """A page that sends the form once more if the visitor is sure."""
        return self.site.page(
            request, who, "sure.html", form=form, question=question, back=back, action=request.path
        )

    async def _editable(self, request: web.Request, who: Visitor) -> Repository:
        found = await self.site.readable(request, who)
        if not await self._hub.access.allowed(who.identity, found.name, DELETE):
            raise web.HTTPForbidden
        return found

    async def _audit(self, request: web.Request, actor: str, action: str, subject: str) -> None:
        await self._hub.activity.audit(actor, action, subject, self._hub.access.address(request))


def _redirect(target: str) -> web.Response:
    return web.Response(status=303, headers={"Location": target, "Cache-Control": "no-store"})


def _need_account(request: web.Request, who: Visitor) -> None:
    if who.identity.anonymous:
        raise login_first(request)


def _need_admin(request: web.Request, who: Visitor) -> None:
    _need_account(request, who)
    if not who.identity.admin:
        raise web.HTTPForbidden
