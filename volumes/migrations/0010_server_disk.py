from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("volumes", "0009_replica_detail")]

    operations = [
        migrations.AddField(
            model_name="server",
            name="disk",
            field=models.CharField(
                blank=True,
                editable=False,
                help_text="Servers with the same one share its capacity and free space.",
                max_length=64,
            ),
        ),
    ]
