from django.urls import path

from buckets.web import dashboard, shares

urlpatterns = [
    path("", dashboard.Dashboard.as_view(), name="dashboard"),
    path("s/<str:token>", shares.SharePage.as_view(), name="share"),
    path("s/<str:token>/download", shares.ShareDownload.as_view(), name="share-download"),
    path("s/<str:token>/content/<str:ticket>", shares.ShareContent.as_view(), name="share-content"),
]
