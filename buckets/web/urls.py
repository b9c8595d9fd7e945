from django.urls import path

from buckets.web import dashboard, preview, share_pages, shares, transfers

urlpatterns = [
    path("", dashboard.Dashboard.as_view(), name="dashboard"),
    path("buckets/<str:bucket>/download", transfers.Download.as_view(), name="download"),
    path("buckets/<str:bucket>/archive", transfers.Archive.as_view(), name="archive"),
    path("buckets/<str:bucket>/preview", preview.Preview.as_view(), name="preview"),
    path("s/<str:token>", shares.SharePage.as_view(), name="share"),
    path("s/<str:token>/download", shares.ShareDownload.as_view(), name="share-download"),
    path("s/<str:token>/content/<str:ticket>", shares.ShareContent.as_view(), name="share-content"),
    path("shares", share_pages.Shares.as_view(), name="shares"),
    path("new-share", share_pages.NewShare.as_view(), name="share-new"),
    path("shares/<int:share_id>", share_pages.ShareDetails.as_view(), name="share-edit"),
    path("shares/<int:share_id>/revoke", share_pages.RevokeShare.as_view(), name="share-revoke"),
    path("buckets/<bucket:bucket>/object-shares", share_pages.ObjectShares.as_view(), name="object-shares"),
]
