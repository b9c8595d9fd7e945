from django.urls import path

from keys.web import activity, keys, session

urlpatterns = [
    # session
    path("sign-in", session.SignIn.as_view(), name="sign-in"),
    path("sign-out", session.SignOut.as_view(), name="sign-out"),
    path("session/switch", session.Switch.as_view(), name="session-switch"),
    path("session/leave", session.Leave.as_view(), name="session-leave"),
    path("session/theme", session.Theme.as_view(), name="session-theme"),
    # keys
    path("keys", keys.Keys.as_view(), name="keys"),
    path("new-key", keys.NewKeyPage.as_view(), name="key-new"),
    path("keys/<int:key_id>", keys.KeyPage.as_view(), name="key"),
    path("keys/<int:key_id>/end-sessions", keys.EndSessions.as_view(), name="key-end-sessions"),
    path("keys/<int:key_id>/delete", keys.DeleteKey.as_view(), name="key-delete"),
    # activity
    path("activity", activity.Activity.as_view(), name="activity"),
]
