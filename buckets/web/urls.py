from django.urls import path

from buckets.web import dashboard, preview, shares, transfers

urlpatterns = [
    path("", dashboard.Dashboard.as_view(), name="dashboard"),
    path("buckets/<str:bucket>/download", transfers.Download.as_view(), name="download"),
    path("buckets/<str:bucket>/archive", transfers.Archive.as_view(), name="archive"),
    path("buckets/<str:bucket>/preview", preview.Preview.as_view(), name="preview"),
    path("s/<str:token>", shares.SharePage.as_view(), name="share"),
    path("s/<str:token>/download", shares.ShareDownload.as_view(), name="share-download"),
    path("s/<str:token>/content/<str:ticket>", shares.ShareContent.as_view(), name="share-content"),
]
