"""The Django site of the tests: for a test client, and for the real servers of `tests/django_served.py`."""

import asyncio
import os
import time
from pathlib import Path

from django.contrib import admin, messages
from django.contrib.auth import alogin, alogout, get_user_model, login, logout, update_session_auth_hash
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from roomkey.django import get_manager

BACKEND = "django.contrib.auth.backends.ModelBackend"


def index(request):
    return JsonResponse(dict(request.session.items()))


async def async_index(request):
    return JsonResponse(dict(await request.session.aitems()))


def nothing(request):
    return HttpResponse(status=204)


def pid(request):
    return HttpResponse(str(os.getpid()))


def write(request, key):
    request.session[key] = 1
    return HttpResponse("written")


async def async_write(request, key):
    await request.session.aset(key, 1)
    return HttpResponse("written")


def count(request):
    return HttpResponse(str(request.session.change("n", lambda n: n + 1, default=0)))


async def async_count(request):
    return HttpResponse(str(await request.session.achange("n", lambda n: n + 1, default=0)))


def nested(request):
    request.session.setdefault("list", []).append(1)
    return HttpResponse("")


def log_in(request, name):
    user, _ = get_user_model().objects.get_or_create(username=name)
    login(request, user, BACKEND)
    return HttpResponse(str(user.pk))


async def async_log_in(request, name):
    user, _ = await get_user_model().objects.aget_or_create(username=name)
    await alogin(request, user, BACKEND)
    return HttpResponse(str(user.pk))


def log_out(request):
    logout(request)
    return HttpResponse("bye")


async def async_log_out(request):
    await alogout(request)
    return HttpResponse("bye")


def who(request):
    return HttpResponse(request.user.get_username() or "nobody")


async def async_who(request):
    return HttpResponse((await request.auser()).get_username() or "nobody")


def password(request):
    """Give the user another password, and keep this session."""
    request.user.set_password("changed")
    request.user.save()
    update_session_auth_hash(request, request.user)
    return HttpResponse("")


def devices(request):
    found = get_manager().sync.sessions.of(request.user.pk, current=request.session)
    return JsonResponse([info.is_current for info in found], safe=False)


async def async_devices(request):
    found = await request.session.sessions.of((await request.auser()).pk)
    return JsonResponse([info.is_current for info in found], safe=False)


def elsewhere(request):
    ended = get_manager().sync.sessions.revoke_all(request.user.pk, keep=request.session)
    return HttpResponse(str(ended))


def message(request):
    messages.success(request, "saved")
    return HttpResponse("")


def shown(request):
    return JsonResponse([str(each) for each in messages.get_messages(request)], safe=False)


def expiry(request, seconds):
    request.session.set_expiry(seconds)
    return HttpResponse("")


def fail(request):
    request.session["failed"] = True
    raise ZeroDivisionError


def unwell(request):
    request.session["failed"] = True
    return HttpResponse(status=503)


def slow(request, folder):
    """Write a key once a file has appeared."""
    before = request.session["_auth_user_id"]
    meet(folder)
    request.session["late"] = before
    return HttpResponse("late")


async def async_slow(request, folder):
    before = await request.session.aget("_auth_user_id")
    await async_meet(folder)
    await request.session.aset("late", before)
    return HttpResponse("late")


def stream(request, folder):
    def chunks():
        yield "begun"
        meet(folder)
        request.session["streamed"] = True
        yield "ended"

    return StreamingHttpResponse(chunks())


async def async_stream(request, folder):
    async def chunks():
        yield "begun"
        await async_meet(folder)
        await request.session.aset("streamed", True)
        yield "ended"

    return StreamingHttpResponse(chunks())


def _met(folder):
    folder = Path(os.environ["DJANGO_SITE_FOLDER"], folder)
    (folder / "reached").touch()
    return (folder / "go on").exists


def meet(folder):
    may_go_on = _met(folder)
    while not may_go_on():
        time.sleep(0.005)


async def async_meet(folder):
    may_go_on = _met(folder)
    while not may_go_on():
        await asyncio.sleep(0.005)


urlpatterns = [
    path("", index),
    path("nothing", nothing),
    path("pid", pid),
    path("write/<key>", write),
    path("count", count),
    path("nested", nested),
    path("login/<name>", log_in),
    path("logout", log_out),
    path("who", who),
    path("password", password),
    path("devices", devices),
    path("elsewhere", elsewhere),
    path("message", message),
    path("shown", shown),
    path("expiry/<int:seconds>", expiry),
    path("fail", fail),
    path("unwell", unwell),
    path("slow/<folder>", slow),
    path("stream/<folder>", stream),
    path("a/", async_index),
    path("a/write/<key>", async_write),
    path("a/count", async_count),
    path("a/login/<name>", async_log_in),
    path("a/logout", async_log_out),
    path("a/who", async_who),
    path("a/devices", async_devices),
    path("a/slow/<folder>", async_slow),
    path("a/stream/<folder>", async_stream),
    path("admin/", admin.site.urls),
]
